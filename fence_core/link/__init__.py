"""What two processes of ours say to one another: each contract stands here once, and both sides import it."""
