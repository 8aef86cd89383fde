import time,os,sys
sys.path.insert(0,".")
from pathlib import Path
import tempfile
import tests.unit.test_rescue as T
d=Path(tempfile.mkdtemp(dir="/tmp/w")); 
(d/"o").mkdir(); (d/"p").mkdir()
t=time.time(); T.write(d/"o"/"shard-0.db"); print("write",time.time()-t)
os.chdir(d/"p"); p=d/"p"/"shard-0.db"
t=time.time(); T.restore(d/"o"/"shard-0.db",p); print("restore",time.time()-t)
t=time.time(); e=T.content(p); print("content",time.time()-t)
T.restore(d/"o"/"shard-0.db",p); T.flip(p,4096*7+50,3)
t=time.time(); print(T.damage_of(p)); print("damage",time.time()-t)
T.restore(d/"o"/"shard-0.db",p); T.flip(p,4096*7+50,3)
t=time.time(); T.rescue(T.SETTINGS,"x"); print("rescue",time.time()-t)
t=time.time(); e=T.content(p); print("content",time.time()-t, T.report())
import cProfile
T.restore(d/"o"/"shard-0.db",p); T.flip(p,4096*7+50,3)
cProfile.run('T.rescue(T.SETTINGS,"x")',sort="cumtime")
