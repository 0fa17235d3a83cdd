"""Modules that several model families share; each holds parameters and calls an operator."""
