"""One module per family of calls; each handler judges one trapped call and returns a reply."""
