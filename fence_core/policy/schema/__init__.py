"""JSON Schema of the configuration: `fence.schema.json`, and what makes it from the rows of `keys.py`."""
