package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A chart is one SVG file.
type chart struct {
	file, title string
	svg         string
}

// WriteCharts writes a file for each chart of the report.
func (r *Report) WriteCharts(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, p := range r.Phases {
		for _, c := range r.phaseCharts(p) {
			if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.svg), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// phaseCharts returns the charts of a phase: bars for each group of measures and one chart
// of ratios, or curves for a series.
func (r *Report) phaseCharts(p PhaseResult) []chart {
	named := func(what, svg string) chart {
		words := strings.FieldsFunc(strings.ToLower(r.Plan.Kind+" "+p.Title+" "+what), func(c rune) bool {
			return (c < 'a' || c > 'z') && (c < '0' || c > '9')
		})
		return chart{file: strings.Join(words, "-") + ".svg", title: capital(p.Title) + ": " + what, svg: svg}
	}
	if len(p.Entrants) == 0 {
		return nil
	}
	if p.Scale != "" {
		return []chart{named("by "+p.Scale, r.curves(p))}
	}
	var all []chart
	for _, group := range []string{groupTCP, groupPackets, groupConnections, groupLatency, groupProcessor, groupMemory} {
		measures := slices.DeleteFunc(slices.Clone(p.Measures), func(m Measure) bool { return m.Group != group })
		if len(measures) > 0 {
			all = append(all, named(group, r.bars(p, measures)))
		}
	}
	if len(p.rivals()) > 0 {
		all = append(all, named("ratios", r.ratios(p)))
	}
	return all
}

const (
	chartWidth = 800
	panelWidth = chartWidth / 2
	labelWidth = 120
	barWidth   = panelWidth - labelWidth - 70 // of the longest bar with its whisker
	barStep    = 20
)

// bars draws a panel for each measure, two side by side, with a bar for each contestant
// and a whisker for the interval of its median.
func (r *Report) bars(p PhaseResult, measures []Measure) string {
	height := 34 + barStep*len(p.Entrants)
	const heading = 26
	s := newSVG(chartWidth, heading+10+height*((len(measures)+1)/2))
	better := "more is better"
	if measures[0].Smaller {
		better = "less is better"
	}
	s.text(10, 20, "label", "start", capital(p.Title)+", "+better)
	for i, m := range measures {
		left, top := panelWidth*(i%2), heading+10+height*(i/2)
		s.text(left+10, top+14, "head", "start", fmt.Sprintf("%s (%s)", m.Name, m.Unit))
		longest := 0.0
		for _, e := range p.Entrants {
			one := r.summary(p.Title, e.Label, m.Name)
			longest = max(longest, one.top())
		}
		for j, e := range p.Entrants {
			one, y := r.summary(p.Title, e.Label, m.Name), top+24+barStep*j
			s.text(left+labelWidth-6, y+12, "label", "end", e.Label)
			if !(one.median > 0) {
				s.text(left+labelWidth, y+12, "label", "start", "not measured")
				continue
			}
			x := func(v float64) float64 { return float64(left+labelWidth) + v/longest*barWidth }
			s.rect(x(0), float64(y), x(one.median)-x(0), barStep-5, j)
			end := one.median
			if one.high != 0 {
				s.whisker(x(one.low), x(one.high), float64(y)+7.5, "mark")
				end = one.high
			}
			s.text(int(x(max(end, one.median)))+6, y+12, "label", "start", number(one.median))
		}
	}
	return s.end()
}

// ratios draws the first contestant's ratio to each of the others, by measure, on a
// logarithmic scale, with their intervals.
func (r *Report) ratios(p PhaseResult) string {
	measures := slices.DeleteFunc(slices.Clone(p.Measures), func(m Measure) bool { return m.Group == groupProcessor })
	rivals := p.rivals()
	const left, right, step = 310, chartWidth - 30, 12
	height := 8 + step*len(rivals)
	s := newSVG(chartWidth, 50+height*len(measures))
	axis := logAxis{from: 0.1, to: 30, left: left, right: right}
	s.text(10, 18, "head", "start", fmt.Sprintf("%s, divided by", p.Entrants[0].Label))
	x := left
	for j, rival := range rivals {
		s.rect(float64(x), 9, 10, 10, j+1)
		s.text(x+15, 18, "label", "start", rival)
		x += 35 + 7*len(rival)
	}
	for _, tick := range []float64{0.1, 0.25, 0.5, 1, 2, 4, 10, 30} {
		class := "grid"
		if tick == 1 {
			class = "mark"
		}
		s.line(axis.at(tick), 40, axis.at(tick), float64(50+height*len(measures)), class)
		s.text(int(axis.at(tick)), 36, "label", "middle", fmt.Sprint(tick))
	}
	for i, m := range measures {
		top := 46 + height*i
		name := m.Name
		if m.Smaller {
			name += " (less is better)"
		}
		s.text(left-10, top+height/2+2, "label", "end", name)
		for j, rival := range rivals {
			ratio, y := r.ratio(p.Title, m.Name, p.Entrants[0].Label, rival), float64(top+step*j+6)
			if ratio.Pairs == 0 || !(ratio.Value > 0) {
				continue
			}
			if ratio.High != 0 {
				s.whisker(axis.at(ratio.Low), axis.at(ratio.High), y, fmt.Sprintf("s%d", (j+1)%colours))
			}
			s.dot(axis.at(ratio.Value), y, j+1)
		}
	}
	return s.end()
}

// curves draws a panel for each measure of a series: the size on a logarithmic scale, a
// line for each contestant and a whisker for each interval.
func (r *Report) curves(p PhaseResult) string {
	const top, height, left = 10, 230, 55
	s := newSVG(chartWidth, top+height*((len(p.Measures)+1)/2)+10)
	var names []string
	smallest, largest := p.Entrants[0].Size, p.Entrants[0].Size
	for _, e := range p.Entrants {
		smallest, largest = min(smallest, e.Size), max(largest, e.Size)
		if !slices.Contains(names, e.Name) {
			names = append(names, e.Name)
		}
	}
	for i, m := range p.Measures {
		x0, y0 := panelWidth*(i%2), top+height*(i/2)
		highest := 0.0
		for _, e := range p.Entrants {
			one := r.summary(p.Title, e.Label, m.Name)
			highest = max(highest, one.top())
		}
		axis := logAxis{from: float64(smallest), to: float64(largest), left: float64(x0 + left), right: float64(x0 + panelWidth - 30)}
		bottom, topmost := float64(y0+height-45), float64(y0+45)
		y := func(v float64) float64 { return bottom - v/highest*(bottom-topmost) }
		s.text(x0+10, y0+14, "head", "start", fmt.Sprintf("%s (%s)", m.Name, m.Unit))
		for _, part := range []float64{0, 0.5, 1} {
			s.line(axis.left, y(part*highest), axis.right, y(part*highest), "grid")
			s.text(x0+left-6, int(y(part*highest))+4, "label", "end", number(part*highest))
		}
		s.text(int(axis.left+axis.right)/2, y0+height-10, "label", "middle", p.Scale)
		for j, name := range names {
			s.rect(float64(x0+10+110*j), float64(y0+22), 10, 10, j)
			s.text(x0+25+110*j, y0+31, "label", "start", name)
			var before *[2]float64
			for _, e := range p.Entrants {
				one := r.summary(p.Title, e.Label, m.Name)
				if e.Name != name || !(one.median >= 0) {
					continue
				}
				at := [2]float64{axis.at(float64(e.Size)), y(one.median)}
				if before != nil {
					s.line(before[0], before[1], at[0], at[1], fmt.Sprintf("s%d", j%colours))
				}
				if one.high != 0 {
					s.line(at[0], y(one.low), at[0], y(one.high), fmt.Sprintf("s%d", j%colours))
				}
				s.dot(at[0], at[1], j)
				s.text(int(at[0]), y0+height-28, "label", "middle", size(e.Size))
				before = &at
			}
		}
	}
	return s.end()
}

// size writes a count in few characters, such as 50k.
func size(n int) string {
	switch {
	case n >= 1_000_000 && n%100_000 == 0:
		return fmt.Sprintf("%gM", float64(n)/1e6)
	case n >= 1000 && n%100 == 0:
		return fmt.Sprintf("%gk", float64(n)/1e3)
	}
	return fmt.Sprint(n)
}
