# The demo page with the embedded model: docker build --tag pixelllm . && docker run --rm --publish 7860:7860 pixelllm
# PIXELLLM_MODEL names other models, --build-arg TORCH another build of PyTorch.
FROM python:3.11-slim-bookworm

ARG TORCH="torch==2.13.0"
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

WORKDIR /app
# PyTorch first and alone: it is large, and changes less often than what follows.
RUN pip install ${TORCH}
COPY setup.py pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install ".[demo]" && rm -rf src build
COPY demo/app.py ./app.py
COPY demo/examples ./examples

# Visitors' images lie in /tmp, which goes with the container. Models from the Hub lie in the user's home.
RUN useradd --create-home --uid 1000 pixelllm
USER pixelllm
ENV GRADIO_SERVER_NAME=0.0.0.0 GRADIO_SERVER_PORT=7860
EXPOSE 7860
HEALTHCHECK --start-period=120s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/config', timeout=5)"]
CMD ["python", "app.py"]
