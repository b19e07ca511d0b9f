"""Builds one fence: the only package that knows all the parts."""
