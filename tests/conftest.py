"""Settings of every test."""

from hypothesis import settings

# other tests run on the same cores: how long an example takes says nothing about it
settings.register_profile("without clock", deadline=None)
settings.load_profile("without clock")
