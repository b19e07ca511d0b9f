"""First policies, as `fence config init` writes them: one for each kind of file. `TEMPLATE` is filled in."""
