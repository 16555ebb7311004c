"""Trainers: PPO with a critic on top of TRL's hooks."""
