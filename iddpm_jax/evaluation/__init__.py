"""How good a trained model is: its bound over a data set, and what each step costs of it."""
