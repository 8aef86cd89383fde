import time,os,sys,random,logging
logging.disable(logging.CRITICAL)
sys.path.insert(0,".")
from pathlib import Path
import tempfile
import tests.unit.test_rescue as T
d=Path(tempfile.mkdtemp(dir="/tmp/w")); (d/"o").mkdir(); (d/"p").mkdir()
T.FRAMES=150
T.write(d/"o"/"shard-0.db"); os.chdir(d/"p"); p=d/"p"/"shard-0.db"
o=d/"o"/"shard-0.db"
print(o.stat().st_size//4096,"pages")
# every page of the main file: flip in the header bytes of each page
bad=[]
for page in range(o.stat().st_size//4096):
    for off in (0,3,5,9,20):
        bit=random.randrange(8); T.restore(o,p); T.flip(p,page*4096+off,bit)
        dm=T.damage_of(p)
        if dm is None: continue
        T.restore(o,p); T.flip(p,page*4096+off,bit)
        f=T.rescued(p,dm)
        if len(f.frames)<140 or len(f.users)<140 or len(f.dead)<10: bad.append((page,off,len(f.frames),len(f.users),len(f.dead)))
print(len(bad),bad)
import shutil; shutil.rmtree(d)
