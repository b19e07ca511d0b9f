"""Adding rules to a config file and leaving all else in it as it is: comments, order, spelling, line ends."""
