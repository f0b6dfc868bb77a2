"""Fake of the `hccl` package that ships with CANN: rank queries and gradient splitting."""
