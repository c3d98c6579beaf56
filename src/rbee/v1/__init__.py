"""The contract, generated from proto/ by make proto. Never edited."""
