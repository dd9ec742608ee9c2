"""The best recipe for a budget: an exact multiple-choice knapsack, with a bound on what is better."""
