# A server under load, saved from a child.
# needs: redis-server redis-benchmark redis-cli
requests=5000; [ "$LONG" = 1 ] && requests=200000
redis-server --port 0 --unixsocket "$PWD/socket" --dir "$PWD" --save '' >server.log 2>&1 &
server=$!
cli="redis-cli -s $PWD/socket"
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    $cli ping >/dev/null 2>&1 && break; sleep 0.25
done
redis-benchmark -s "$PWD/socket" -q -n $requests -r 1000 -d 100 -P 4 -t set,get,lpush,lrange_100 >bench.log 2>&1 || exit 1
$cli flushall
i=0; while [ $i -lt 500 ]; do echo "set key:$i value-$i"; i=$((i + 1)); done | $cli | sort | uniq -c
$cli lpush list a b c d e
$cli lrange list 0 -1
$cli save
$cli bgsave
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    $cli info persistence | grep -q 'rdb_bgsave_in_progress:0' && break; sleep 0.25
done
$cli info persistence | grep rdb_last_bgsave_status
$cli get key:321
$cli dbsize
$cli shutdown nosave 2>/dev/null
wait $server
echo "server ended with $?"
