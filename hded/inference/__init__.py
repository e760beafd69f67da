"""Inference with a trained network: on images, on photographs of any size, and as ONNX."""

from hded.inference.predictor import Predictor, load_predictor

__all__ = ["Predictor", "load_predictor"]
