# A server that is written to and read from; the load is a process that nobody waits for, so that it does not count.
# needs: redis-server redis-benchmark redis-cli
socket="$PWD/socket"
(
    unset LD_PRELOAD
    i=0; while [ $i -lt 100 ] && ! redis-cli -s "$socket" ping >/dev/null 2>&1; do sleep 0.02; i=$((i + 1)); done
    redis-benchmark -s "$socket" -q -n 100000 -r 100000 -d 100 -P 16 -t set,get,lpush,lrange_100 >/dev/null 2>&1
    redis-cli -s "$socket" shutdown nosave
) &
exec redis-server --port 0 --unixsocket "$socket" --dir "$PWD" --save '' --logfile /dev/null
