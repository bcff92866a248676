// The style sheet of the report's page. Plain CSS; colours come from `svg_style` (report_svg.h).
#pragma once

#include <string_view>

namespace basin {

inline constexpr std::string_view page_style() {
  return R"(*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1120px;margin:0 auto;padding:40px 24px 64px}
.kicker{margin:0 0 6px;color:var(--soft);font-size:14px;letter-spacing:.02em}
h1{margin:0 0 20px;font-size:34px;line-height:1.18;font-weight:650;letter-spacing:-.015em;text-wrap:balance}h1 span{display:block}
h2{margin:52px 0 14px;font-size:21px;font-weight:650}h3{margin:32px 0 10px;font-size:17px}
.findings{list-style:none;margin:0 0 28px;padding:0;max-width:47em}
.findings li{margin:0 0 12px;padding-left:16px;border-left:4px solid var(--c)}
.soft{color:var(--soft);font-size:14px}p.soft{max-width:52em}
code,pre{font:13px/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{overflow-x:auto;padding:14px 16px;background:var(--tint);border-radius:6px}
.missing{padding:10px 14px;background:var(--tint);border-left:4px solid var(--soft);max-width:60em;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:0 0 10px}
table{border-collapse:collapse;font-size:15px;font-variant-numeric:tabular-nums}
td{white-space:nowrap}header td{white-space:normal;overflow-wrap:anywhere}th,td{padding:7px 14px 7px 0;text-align:right;vertical-align:top;font-weight:400;border-bottom:1px solid var(--rule)}
th:first-child,td:first-child{text-align:left;white-space:nowrap;background:var(--paper);position:sticky;left:0}
thead th{color:var(--soft);font-size:14px;vertical-align:bottom}
.first{padding-left:26px}td .soft,th .soft{font-size:13px;display:block;white-space:nowrap}thead .first[colspan]{text-align:left;padding-left:34px}
tr.main>*{background:var(--tint)}
.run{color:var(--ink);font-weight:600;white-space:nowrap}.run:before{content:"";display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:7px;background:var(--c)}
header table td,header table th{text-align:left}header{margin-bottom:8px}
.units th{max-width:8.5em}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:26px 40px;margin-top:18px}
figure{margin:0;max-width:560px;break-inside:avoid}figure .plot{display:block;width:100%;height:auto}
figcaption{margin-top:8px;color:var(--soft);font-size:14px;line-height:1.45}
.maps .tile rect{fill:none;stroke:var(--rule)}.maps .over rect{stroke:var(--c);stroke-width:2.5}.maps image{image-rendering:pixelated}
@media (prefers-color-scheme:dark){.maps image{filter:brightness(1.7)}}
.maps .tile text{font-size:11px}.maps .over text{fill:var(--ink);font-weight:600}
details{margin:14px 0}summary{cursor:pointer}details table{font-size:13px}details td,details th{text-align:left;padding-top:3px;padding-bottom:3px}
@media (max-width:600px){main{padding:24px 16px 40px}h1{font-size:26px}h2{margin-top:40px}table{font-size:14px}th,td{padding-right:10px}.first{padding-left:14px}thead .first[colspan]{padding-left:16px}}
@media print{code{font-size:8pt}body{font-size:11pt}main{padding:0;max-width:none}.scroll{overflow:visible}table{font-size:8.5pt}th,td{padding:3px 8px 3px 0}.first{padding-left:12px}td .soft,th .soft,thead th{font-size:7.5pt}
figcaption,.soft{font-size:8.5pt}summary{display:none}h1{font-size:19pt}h2{margin-top:24px;break-after:avoid}.grid{grid-template-columns:1fr 1fr;gap:16px}pre{white-space:pre-wrap;font-size:8pt}tr{break-inside:avoid}}
)";
}

}  // namespace basin
