"""How the report looks: light and dark, from 320 pixels of width upwards."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #fbfbfd; --card: #fff; --ink: #1d2433; --soft: #5b6477; --line: #dfe3ea; --stripe: #f3f5f9;
  --accent: #0067a8; --token: #0072b2; --weight: #8a3ffc; --warm: #b4480a;
  --good: #0b6b4d; --good-bg: #dff4ea; --bad: #9a2c12; --bad-bg: #fde7df; --open: #4c566a; --open-bg: #e8ebf1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12151c; --card: #1a1f29; --ink: #e6e9f0; --soft: #a3adbf; --line: #303848; --stripe: #202633;
    --accent: #6cbcf5; --token: #4aa8e8; --weight: #b58bff; --warm: #f0a06a;
    --good: #8fe0bd; --good-bg: #123a2c; --bad: #ffb59f; --bad-bg: #47211a; --open: #c3cada; --open-bg: #2c3444;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
}
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 20px; overflow-wrap: anywhere; }
header { padding-top: 40px; }
h1 { font-size: clamp(1.6rem, 5vw, 2.3rem); line-height: 1.15; margin: 0 0 .4em; text-wrap: balance; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 .5em; scroll-margin-top: 16px; text-wrap: balance; }
h3 { font-size: 1rem; margin: 0 0 .3em; }
p { margin: 0 0 .8em; max-width: 75ch; }
a { color: var(--accent); }
h2 a { color: inherit; text-decoration: none; }
h2 a:hover { text-decoration: underline; }
.lead, .note, figcaption { color: var(--soft); }
.note, figcaption { font-size: .875rem; }
section { margin: 44px 0; }
section.figure { border-top: 1px solid var(--line); padding-top: 30px; }
nav ul { display: flex; flex-wrap: wrap; gap: 8px; list-style: none; margin: 18px 0 0; padding: 0; }
nav a {
  display: block; padding: 5px 12px; border: 1px solid var(--line); border-radius: 999px; background: var(--card);
  text-decoration: none; font-size: .875rem;
}
.badge {
  display: inline-block; padding: 1px 10px; border-radius: 999px; font-size: .875rem; font-weight: 600;
  color: var(--open); background: var(--open-bg);
}
.badge.good { color: var(--good); background: var(--good-bg); }
.badge.bad { color: var(--bad); background: var(--bad-bg); }
.pair { display: grid; gap: 20px; grid-template-columns: minmax(0, 1fr); align-items: start; margin: 18px 0; }
figure { margin: 0; }
figcaption { margin-top: 8px; }
.plot { overflow-x: auto; background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 12px; }
.plot img { display: block; width: 100%; max-width: 760px; height: auto; margin: 0 auto; }
.plot.wide img { max-width: none; }
.sideways { display: none; }
.card { border: 1px solid var(--line); border-radius: 10px; background: var(--card); margin: 0 0 10px; }
.card { overflow: hidden; }
.title { font-size: .875rem; font-weight: 600; margin: 0; padding: 10px 12px; max-width: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 12px; border-top: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); }
td.text { white-space: normal; min-width: 15em; overflow-wrap: break-word; }
tbody tr:nth-child(even) { background: var(--stripe); }
details { margin: 0 0 10px; }
summary { cursor: pointer; color: var(--accent); padding: 6px 0; }
.missing { border: 1px dashed var(--line); border-radius: 10px; padding: 16px; color: var(--soft); }
dl { display: grid; grid-template-columns: minmax(8em, max-content) minmax(0, 1fr); gap: 8px 20px; margin: 0; }
dt { font-weight: 600; }
dd { margin: 0; max-width: 75ch; }
code { font: .875em ui-monospace, "Liberation Mono", monospace; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.steps { list-style: none; margin: 20px 0 0; padding: 0; display: grid; gap: 16px; grid-template-columns: 1fr; }
.steps { counter-reset: step; }
.steps li { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px; }
.steps svg { display: block; width: 100%; max-width: 330px; height: auto; margin: 0 auto 10px; }
.steps h3::before { counter-increment: step; content: counter(step) "  "; color: var(--accent); }
.steps p { font-size: .9rem; color: var(--soft); margin: 0; }
svg text { font: 12.5px system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; fill: var(--ink); }
svg text { text-anchor: middle; }
svg text.start { text-anchor: start; fill: var(--soft); }
svg text.end { text-anchor: end; fill: var(--soft); }
svg text.alarm { fill: var(--bad); font-weight: 600; }
svg text.loop, svg text.crossing { fill: var(--weight); font-weight: 600; }
.token { fill: var(--token); }
.token.new { fill-opacity: .35; stroke: var(--token); }
.token.left-out { fill: none; stroke: var(--bad); stroke-width: 1.6; }
.empty { fill: none; stroke: var(--soft); stroke-dasharray: 3 3; }
.blocks { fill: none; stroke: var(--soft); stroke-width: 1.3; }
.layer { fill: var(--open-bg); }
.weight { fill: var(--weight); }
.pale { opacity: .35; }
.arrow { fill: none; stroke: var(--soft); stroke-width: 1.6; }
.head { fill: var(--soft); }
.arrow.loop, .arrow.crossing { stroke: var(--weight); stroke-width: 2.4; }
.head.loop, .head.crossing { fill: var(--weight); }
.boundary { fill: none; stroke: var(--warm); stroke-width: 1.6; stroke-dasharray: 6 4; }
@media (min-width: 600px) { .steps { grid-template-columns: 1fr 1fr; } }
@media (min-width: 900px) { .pair.beside { grid-template-columns: minmax(0, 1.5fr) minmax(0, 1fr); } }
@media (min-width: 1080px) { .steps { grid-template-columns: repeat(4, minmax(0, 1fr)); } }
@media (max-width: 820px) { .sideways.wide { display: block; } }
@media (max-width: 520px) { .sideways { display: block; } }
@media (max-width: 520px) { dl { grid-template-columns: 1fr; gap: 2px; } dd { margin-bottom: 10px; } }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
@media print { .plot, .scroll { overflow: visible; } }
"""
