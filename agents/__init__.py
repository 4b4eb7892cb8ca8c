"""The built-in roles, one file each."""

from tutelage.agents.critic import critic
from tutelage.agents.fact_checker import fact_checker
from tutelage.agents.student import student
from tutelage.agents.tutor import tutor

__all__ = ["critic", "fact_checker", "student", "tutor"]
