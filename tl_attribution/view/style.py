"""The style sheet of the page, for light and dark."""

STYLE = """
:root {
  color-scheme: light dark; --paper: #f7f7f4; --card: #fff; --ink: #1d1f24; --soft: #666b75;
  --faint: #9a9ea7; --line: #e5e5df; --column: #f7f7f3; --feature: #4453b8; --error: #b9babf;
  --plus: #2f7fb5; --minus: #cf5a34; --chip: #eef0f4; --chip-ink: #2b2e36; --bar: #4453b8;
  --track: #ebebe6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #131418; --card: #1b1d22; --ink: #e9eaee; --soft: #a2a6b0; --faint: #747984;
    --line: #2b2e35; --column: #20232a; --feature: #96a3f5; --error: #5b5f69; --plus: #62b0e3;
    --minus: #f08a62; --chip: #2a2e37; --chip-ink: #e3e5ea; --bar: #8391ee; --track: #2a2d34;
  }
}
* { box-sizing: border-box }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
}
main { max-width: 1240px; margin: 0 auto; padding: 36px 28px 48px }
.eyebrow { color: var(--soft); font-size: 13px; margin: 0 0 6px }
h1 {
  font-size: 27px; line-height: 1.25; font-weight: 650; letter-spacing: -.015em; margin: 0 0 26px;
  text-wrap: balance; overflow-wrap: anywhere;
}
h2 { font-size: 16px; font-weight: 650; margin: 0 0 2px }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 20px 22px;
  margin: 0 0 18px; min-width: 0;
}
.note { color: var(--soft); font-size: 13px; margin: 0 0 14px; max-width: 130ch }
.top { display: grid; grid-template-columns: minmax(0,5fr) minmax(0,7fr); gap: 18px }
@media (max-width: 820px) {
  .top { grid-template-columns: minmax(0,1fr) }
  main { padding: 20px 14px }
}
code, .chip, .map text {
  font-family: ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
}
table { border-collapse: collapse; width: 100%; font-size: 13.5px }
th {
  color: var(--soft); font-weight: 500; text-align: left; font-size: 12.5px; white-space: nowrap;
}
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: middle }
tr:last-child td { border-bottom: 0 }
td:last-child, th:last-child { padding-right: 0 }
.number { text-align: right; width: 1%; font-variant-numeric: tabular-nums; white-space: nowrap }
th.number { text-align: right }
.scroll { overflow-x: auto }
.end { direction: rtl }
.bar { display: block; height: 7px; border-radius: 4px; background: var(--track); min-width: 56px }
.bar i { display: block; height: 7px; border-radius: 4px; background: var(--bar); min-width: 2px }
.answers td { border: 0; padding: 4px 12px 4px 0 }
.answers .wide { width: 60% }
.answers .chip { white-space: pre; max-width: 220px; overflow: hidden; text-overflow: ellipsis }
.answers td:last-child { padding-right: 0 }
.chip {
  display: inline-block; vertical-align: middle; background: var(--chip); color: var(--chip-ink);
  border-radius: 5px; padding: 1px 6px; font-size: 12.5px; white-space: pre-wrap;
  overflow-wrap: anywhere;
}
.tiles { display: grid; grid-template-columns: repeat(3,minmax(0,1fr)); gap: 14px 20px; margin: 0 }
.tiles dt { color: var(--soft); font-size: 13px }
.tiles dd {
  margin: 0; font-size: 23px; font-weight: 600; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums;
}
.tiles small {
  display: block; color: var(--faint); font-size: 12px; font-weight: 400; letter-spacing: 0;
  line-height: 1.35;
}
.legend {
  display: flex; flex-wrap: wrap; gap: 6px 18px; color: var(--soft); font-size: 12.5px;
  margin: 0 0 10px;
}
.legend svg { vertical-align: -2px; margin-right: 5px }
.route { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 6px; line-height: 1.5 }
.route .step {
  border: 1px solid var(--line); border-radius: 5px; padding: 0 6px; font-size: 12.5px;
}
.route .step.feature { border-color: var(--feature) }
.step b, td b { font-weight: 600 }
.step small, td small { color: var(--soft); font-size: 12px }
.arrow { color: var(--plus); font-weight: 600 }
.arrow.minus { color: var(--minus) }
.path:hover td { background: var(--column) }
.map { display: block; width: 100%; height: auto; direction: ltr }
.map text {
  font-size: 12px; fill: var(--chip-ink); text-anchor: middle; white-space: pre;
  pointer-events: none;
}
.map .band { font-family: inherit; fill: var(--faint); text-anchor: end; font-size: 12px }
.map .name {
  font-family: inherit; text-anchor: start; font-size: 11px; fill: var(--ink); paint-order: stroke;
  stroke: var(--card); stroke-width: 3.5px; stroke-linejoin: round;
}
.grid { stroke: var(--line) }
.column { fill: var(--column) }
.e { fill: none; stroke-linecap: round }
.e.plus { stroke: var(--plus) }
.e.minus { stroke: var(--minus) }
.e:hover { stroke-opacity: 1 }
.n rect { fill: var(--chip); stroke: var(--line) }
.n.feature circle { fill: var(--feature) }
.n.error path { fill: var(--error) }
.n circle, .n.error path { stroke: var(--card); stroke-width: 1.5 }
.n.position rect { fill: var(--faint); stroke: none }
.n.logit rect { fill: var(--feature); stroke: none }
.map .n.logit text { fill: var(--card); font-weight: 600 }
.n.group rect, .n.feature rect { fill: var(--card); stroke: var(--feature); stroke-width: 1.5 }
.map .n.group text { font-family: inherit; font-weight: 600; font-size: 13px }
.n:hover circle, .n:hover path, .n:hover rect { stroke: var(--ink) }
footer { color: var(--faint); font-size: 12.5px; padding: 4px 2px }
"""
