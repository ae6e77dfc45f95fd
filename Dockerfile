# A CPU image of the command line. Its steps are the make commands that everybody runs.
#   docker build --tag edgeprune .
#   docker run --rm edgeprune demo
#   docker run --rm --volume "$PWD:/data" --workdir /data edgeprune inspect model.pt2
FROM python:3.11-slim

# Where torch comes from; empty for the package index itself.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/edgeprune
COPY . .
RUN make setup EXTRAS=litert,lowrank,timm,demo TORCH_INDEX=$TORCH_INDEX PYTHON=python3 \
    && useradd --create-home user

# The virtual environment's commands, whatever folder the container works in.
ENV PATH=/opt/edgeprune/.venv/bin:$PATH
USER user
WORKDIR /home/user
ENTRYPOINT ["edgeprune"]
CMD ["--help"]
