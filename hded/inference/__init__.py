"""Inference with a trained network: on images, on photographs of any size, and ONNX export."""

from hded.inference.predictor import Predictor, load_predictor, save_weights

__all__ = ["Predictor", "load_predictor", "save_weights"]
