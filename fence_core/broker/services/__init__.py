"""What the broker looks after from one call to the next: sockets, names, drafts, tunnels, sessions, violations."""
