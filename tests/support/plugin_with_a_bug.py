"""A plug-in whose module fails when it is imported."""

raise NameError("name 'undefined' is not defined")
