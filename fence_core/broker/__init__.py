"""The referee: runs in the supervisor process, sees every trapped call, decides and answers."""
