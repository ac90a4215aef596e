# A database in memory and on disk: built, indexed, joined.
# needs: sqlite3
exec sqlite3 "$PWD/data.$$" <<'Q'
pragma journal_mode=off; pragma synchronous=off;
create table t(id integer primary key, word text, number real, padding blob);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000)
insert into t select i, 'word ' || (i * 7919 % 10007), i * 0.5, zeroblob(80) from n;
create index w on t(word);
select count(*), count(distinct word), sum(number) from t;
select word, count(*) c from t group by word order by c desc, word limit 5;
select a.id, b.id from t a join t b on a.word = b.word and a.id < b.id order by 1, 2 limit 5;
select sum(length(g)) from (select group_concat(word || id) g from t group by id % 1000);
pragma integrity_check;
Q
