import sys,time,json,tempfile,shutil,random
from array import array
from pathlib import Path
from shards.journal import SqliteJournal
from shards.frames import Frame, NewFrame
from shards.changes import Changes
from shards import ledger
from shards.wire import pack, hash_user
from shards.rebuild import Source, Rebuild
from shards.target import Target
import xxhash
N=int(sys.argv[1]); M=[int(x) for x in sys.argv[2].split(",")]; per=int(sys.argv[3])
d=Path(tempfile.mkdtemp(dir="/tmp/w"))
j=SqliteJournal(d/"s0.db",0,1,"process",["email","sms","push","inapp"])
seq=0
t=time.time()
for n in range(0,N,per):
    seq+=1
    body=pack([{"user_id":f"user-{(n+i)%10000}","title":"order shipped","category":"transaction","idempotency_key":f"key-{n+i}","payload":{"order":n+i,"text":"x"*40}} for i in range(per)])
    f=Frame(seq,1000+seq,array("I",[ledger.word(0,1),ledger.word(2,1)]*per),bytes([2]*per))
    f.open=f.active=2*per; f.mask=ledger.lane_bit(1)|ledger.lane_bit(9)
    f.new=NewFrame(0,False,body,b"".join(xxhash.xxh3_128_digest(b"%d"%(n+i)) for i in range(per)),None,False)
    c=Changes(); c.frames=[f]
    j.begin(); j.state.last=seq; j.record(c,5); j.save_state(); j.commit()
j.state.counters.channels=[__import__("shards.counters").counters.ChannelCounters() for _ in range(4)]
j.state.counters.channels[0].planned=N; j.state.counters.channels[2].planned=N
j.begin(); j.save_state(); j.commit()
j.close()
print("made",time.time()-t, (d/"s0.db").stat().st_size>>20,"MB")
paths=[d/"s0.db"]
import resource
for m in M:
    t=time.time()
    src=[Source(p) for p in paths]
    new=[d/f"r{m}-{k}.db" for k in range(m)]
    tg=[Target(p,k,m,m) for k,p in enumerate(new)]
    r=Rebuild(src,tg,{})
    r.run(range(len(src)))
    for s in src: s.close()
    print(len(paths),"->",m,round(time.time()-t,2),"s", sum(p.stat().st_size for p in new)>>20,"MB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss>>10,"MB rss")
    tot=0
    for k,p in enumerate(new):
        q=SqliteJournal(p,k,m,"process",["email","sms","push","inapp"])
        assert q.pending()==sum(c.planned-sum(c.outcomes) for c in q.state.counters.channels)
        tot+=q.pending(); q.close()
    assert tot==2*N,tot
    paths=new
shutil.rmtree(d)
