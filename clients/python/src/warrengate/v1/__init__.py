"""Generated stubs of the package warrengate.v1."""
