"""The demo page: an image and its captions, linked word by word, served by gradio.

Nothing is imported here: gradio is an extra (`pip install pixelllm-hf[demo]`), and `view` does without it.
"""
