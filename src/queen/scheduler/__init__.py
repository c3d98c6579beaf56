"""Answers which worker serves which job: the scheduler port's implementations and the cycle that drives them."""
