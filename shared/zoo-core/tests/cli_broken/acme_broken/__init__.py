"""A package that must never be imported by listing."""

raise RuntimeError("acme_broken was imported")
