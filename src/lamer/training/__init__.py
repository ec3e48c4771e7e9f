"""Curriculum and LoRA fine-tuning."""
