#!/bin/sh
# A node of a Ray cluster: `node.sh head`, `node.sh worker` (at the head $RAY_HEAD), `node.sh health`.
# With RAY_AUTH_MODE=token and RAY_AUTH_TOKEN nodes ask each other for it; else whoever reaches a port may run anything.
set -eu

case "${1:-}" in
head)
    exec ray start --head --block --port "${RAY_PORT:-6379}" --include-dashboard=false --disable-usage-stats
    ;;
worker)
    exec ray start --block --address "${RAY_HEAD:?set RAY_HEAD to the address of the head, such as head:6379}" \
        --disable-usage-stats
    ;;
health) # this node runs, and its head answers
    grep -qsx raylet /proc/[0-9]*/comm
    exec ray health-check --address "${RAY_HEAD:-127.0.0.1:${RAY_PORT:-6379}}"
    ;;
*)
    exec "$@"
    ;;
esac
