import numpy as np, torch
def test_probe(random_model_folder):
    from hyperasr.model import HyperASR
    from hyperasr.decode import decode
    from hyperasr.types import Batch
    m = HyperASR.from_pretrained(random_model_folder)
    print(m.budget())
    g=np.random.default_rng(0)
    ws=[]
    for f0 in (110,150,220,300):
        t=np.arange(16000*2)/16000
        w=sum(np.sin(2*np.pi*f0*k*t)/k for k in range(1,20))*0.05*(1+0.9*np.sin(2*np.pi*3*t))
        ws.append((w+g.normal(0,.003,len(w))).astype(np.float32))
    mel,n=m.backbone.features(ws)
    for adapt in (True,False):
        d=decode(m,Batch(n_frames=n,mel=mel),adapt=adapt)
        for r,f,s in zip(d.tokens,d.finished,d.score): print(adapt,f,round(s,2),repr(m.backbone.text(r))[:100])
