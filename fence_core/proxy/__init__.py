"""Filtering by name, in a process of its own: relays tunnels and proxied requests, and asks the broker about each."""
