from zoo_core.testing.conformance import Conformance


class TestConformance(Conformance):
    package = "zoo_htr"
