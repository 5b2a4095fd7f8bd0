"""Where the ledger is kept: the protocol, and its backends."""
