"""Layer spec to trainable .tflite, without TensorFlow."""
