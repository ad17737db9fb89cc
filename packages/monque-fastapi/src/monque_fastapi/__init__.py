"""Background jobs on MongoDB for FastAPI: `monque`, with FastAPI's dependency injection."""

from monque_fastapi._declare import DeclaredJob, cron, job, job_controller
from monque_fastapi._dependencies import JobDep, MonqueDep, get_job, get_monque
from monque_fastapi._module import MonqueModule
from monque_fastapi._routes import JobView, accepted, job_routes
from monque_fastapi.errors import DependencyError

__all__ = [
    "DeclaredJob",
    "DependencyError",
    "JobDep",
    "JobView",
    "MonqueDep",
    "MonqueModule",
    "accepted",
    "cron",
    "get_job",
    "get_monque",
    "job",
    "job_controller",
    "job_routes",
]
