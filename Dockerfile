# A server for one model (`plainunet serve`), which runs without root and writes nothing:
#   docker build -t plainunet .
#   docker build -t plainunet --build-arg TORCH=cuda .   for NVIDIA GPUs
#   docker build -t plainunet --build-arg TORCH=none .   without PyTorch, for exported models
#   docker run --rm -p 127.0.0.1:8000:8000 -v ./runs/first:/model:ro plainunet
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ARG TORCH=cpu
# the wheels of PyPI contain CUDA, several gigabytes; empty: pip's own index
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY runtime runtime
COPY src src
RUN python -m venv /opt/plainunet && \
    if [ "$TORCH" = none ]; then package=./runtime; else package=.; fi && \
    if [ "$TORCH" = cpu ]; then \
      /opt/plainunet/bin/pip install --no-cache-dir -c constraints.txt \
        ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch; \
    fi && \
    /opt/plainunet/bin/pip install --no-cache-dir -c constraints.txt "${package}[serve]"

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --create-home plainunet
COPY --from=build /opt/plainunet /opt/plainunet
ENV PATH=/opt/plainunet/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/plainunet
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["plainunet"]
CMD ["serve", "/model/best.safetensors", "--host", "0.0.0.0"]
