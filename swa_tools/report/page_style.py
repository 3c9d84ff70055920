"""The style sheet of the page: print and screen, light and dark, wide and narrow."""

from swa_tools.report.style import DARK, LIGHT, Theme

NARROW_PIXELS = 640
"""Narrower screens get the narrow pictures."""


def _variables(theme: Theme) -> str:
    pairs = {
        "paper": theme.paper,
        "ink": theme.ink,
        "muted": theme.muted,
        "line": theme.grid,
        "swa": theme.swa,
        "sgd": theme.sgd,
        "shade": f"{theme.muted}60",
    }
    return "".join(f"--{name}:{color};" for name, color in pairs.items())


STYLE_SHEET = (
    f":root{{color-scheme:light dark;{_variables(LIGHT)}}}"
    f"@media(prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"
    """
*{box-sizing:border-box}
html{background:var(--paper);color:var(--ink);font:1rem/1.55 system-ui,sans-serif;
  -webkit-text-size-adjust:100%}
body{max-width:66rem;margin:0 auto;padding:1rem clamp(1rem,4vw,2.5rem) 4rem;
  overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2;margin:1.2rem 0 .3rem}
h2{font-size:1.3rem;line-height:1.25;margin:3rem 0 .6rem;padding-top:1rem;
  border-top:1px solid var(--line)}
h3{font-size:1.05rem;margin:2rem 0 .5rem}
p{max-width:44rem;margin:.5rem 0}
.lead{font-size:1.1rem}
.note,figcaption,footer{color:var(--muted);font-size:.88rem}
a{color:var(--swa)}
a:focus-visible,[tabindex]:focus-visible,summary:focus-visible{outline:3px solid var(--swa);
  outline-offset:2px;border-radius:2px}
.skip{position:absolute;left:-100vw}
.skip:focus{position:static}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin:.8rem 0;padding:0}
nav a{display:inline-block;padding:.35rem 0}
.scroll{overflow-x:auto;margin:.6rem 0;background:
  linear-gradient(to left,var(--paper) 40%,transparent) right top/3rem calc(100% + 4px)
  no-repeat local,
  linear-gradient(to left,var(--shade),transparent) right/1rem 100% no-repeat scroll}
table{width:max-content;border-collapse:separate;border-spacing:0;
  font-variant-numeric:tabular-nums;font-size:.93rem}
th,td{padding:.3rem .8rem;text-align:right;white-space:nowrap;
  border-bottom:1px solid var(--line)}
th:first-child{padding-left:.1rem;position:sticky;left:0;z-index:1;background:var(--paper)}
thead th{border-bottom:2px solid var(--muted);font-weight:600}
tbody th{font-weight:400}
th:first-child,.text{text-align:left}
tr.average>*{font-weight:700;color:var(--swa)}
tr.control>*{color:var(--sgd)}
tr.start>*{font-style:italic}
dl{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.2rem 1.2rem;margin:.6rem 0}
dt{color:var(--muted)}
dd{margin:0;min-width:0}
figure{margin:1.2rem 0 .6rem}
figure h3{margin-top:2.2rem}
figure img{display:block;width:100%;height:auto}
figcaption{max-width:44rem;margin-top:.4rem}
pre{white-space:pre-wrap;font:.85rem/1.5 ui-monospace,monospace;margin:.3rem 0 1rem;
  padding:.6rem .8rem;border:1px solid var(--line);border-radius:4px}
summary{cursor:pointer;padding:.4rem 0}
@media(max-width:NARROWpx){th,td{padding:.3rem .45rem}
  th:first-child{white-space:normal;max-width:8.5rem}}
@media print{nav,.skip{display:none}details>*{display:block}figure{break-inside:avoid}}
""".replace("NARROW", str(NARROW_PIXELS))
)
