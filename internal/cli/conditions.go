package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/breakwater-gateway/breakwater/internal/admin"
	"github.com/breakwater-gateway/breakwater/internal/conditions"
)

func newConditions() *cobra.Command {
	c := &cobra.Command{
		Use:   "conditions",
		Short: "What wants a person, and what to do",
		Long: `List what wants a person, worst first: page means now, warn on the next working day, info whenever somebody looks. The
exit code is 0 whether there is something or not.`,
		Example: `  breakwater conditions
  breakwater conditions --json | jq -r '.conditions[] | select(.severity == "page").text'`,
	}
	return asks(c, (*gateway).Conditions, func(c *cobra.Command, _ *gateway, list admin.ConditionList) error {
		return showConditions(newScreen(c.OutOrStdout()), list.Conditions)
	})
}

func showConditions(s screen, list []conditions.Condition) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(s.w, "Nothing wants a person")
		return err
	}
	t := &table{head: []string{"SEVERITY", "CONDITION", "ABOUT", "SINCE", "COUNT"}, numbers: []int{4}}
	colours := map[conditions.Severity]paint{conditions.Page: red, conditions.Warn: yellow}
	for _, c := range list {
		number := ""
		if c.Count > 0 {
			number = conditions.Count(c.Count)
		}
		t.add(say(string(c.Severity), colours[c.Severity]), say(c.ID, plain), say(c.About, plain), say(s.before(c.Since.Time), plain), say(number, plain))
	}
	if err := t.write(s); err != nil {
		return err
	}
	return s.explain(list)
}

// explain says what each condition is, and what to do.
func (s screen) explain(list []conditions.Condition) error {
	for _, c := range list {
		if _, err := fmt.Fprintf(s.w, "\n%s\n", visible(strings.TrimSpace(c.Text+" "+c.Help))); err != nil {
			return err
		}
	}
	return nil
}
