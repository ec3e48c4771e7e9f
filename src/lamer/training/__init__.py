"""Curriculum and LoRA fine-tuning."""

from lamer.training.curriculum import order_examples, plan_steps
from lamer.training.trainer import TrainResult, effective_scaling, train_adapter

__all__ = ["TrainResult", "effective_scaling", "order_examples", "plan_steps", "train_adapter"]
