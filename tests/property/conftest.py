"""Property tests are the same on every run and know no clock."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "suite",
    deadline=None,  # a shared machine would fail a correct test
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")
