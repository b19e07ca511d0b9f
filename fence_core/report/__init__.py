"""The ledger as text: pure functions that yield lines; whoever calls them prints."""
