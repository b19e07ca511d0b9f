"""From what a run has needed to the rules that would allow it: pure but for looks into directories, which are given."""
