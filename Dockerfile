# hyperasr and its server on a CPU, the model inside: the running container needs no network.
#
#   docker build -t hyperasr .
#   docker run --rm --network none --user "$(id -u)" -v "$PWD:/data" hyperasr transcribe my.wav
#   docker run --rm --network host hyperasr        # the server, at http://127.0.0.1:8000/
FROM python:3.11-slim-bookworm AS build

# torch for CPUs, without gigabytes of CUDA; an index of your own takes its place.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /src
COPY constraints.txt ./
RUN python -m venv /opt/hyperasr \
    && /opt/hyperasr/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" -r constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY hyperasr hyperasr
RUN /opt/hyperasr/bin/pip install --no-cache-dir -c constraints.txt ".[serve]"

FROM python:3.11-slim-bookworm

COPY --from=build /opt/hyperasr /opt/hyperasr
ENV HF_HUB_OFFLINE=1 \
    HOME=/tmp \
    PATH=/opt/hyperasr/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /data
EXPOSE 8000
ENTRYPOINT ["hyperasr"]
CMD ["serve"]
