"""Interview practice: a bank with proofs, a mock interview, daily review, cards to take away."""
