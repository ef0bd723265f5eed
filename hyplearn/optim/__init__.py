"""Riemannian optimizers that learn curvature, parameter groups and learning rate schedules."""

from hyplearn.optim.curvature import CurvatureAware
from hyplearn.optim.groups import check_groups, describe_groups, parameter_groups
from hyplearn.optim.radam import RiemannianAdam
from hyplearn.optim.radamw import RiemannianAdamW
from hyplearn.optim.rsgd import RiemannianSGD
from hyplearn.optim.schedule import build_schedule
from hyplearn.optim.support import check_supports

__all__ = [
    "CurvatureAware",
    "RiemannianAdam",
    "RiemannianAdamW",
    "RiemannianSGD",
    "build_schedule",
    "check_groups",
    "check_supports",
    "describe_groups",
    "parameter_groups",
]
