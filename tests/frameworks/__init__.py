"""Agent frameworks; run by `python3 -m tests frameworks`, in an environment that has them."""
