package query

import "maps"

// listDescriptions has the Actions for prefix lists.
var listDescriptions = map[string]description{
	"CreateManagedPrefixList":          {"Creates a prefix list.", "The answer shows create-complete, because the list can be used at once. A list cannot be shared with other accounts."},
	"DeleteManagedPrefixList":          {"Deletes a prefix list that no rule and no route names.", "A list in use is DependencyViolation, which names the resources; AWS answers later with delete-failed."},
	"DescribeManagedPrefixLists":       {"Shows prefix lists, also those of AWS.", "AWS's lists are com.amazonaws.REGION.s3 and dynamodb. They are empty and admit nothing, because these services are not here."},
	"DescribePrefixLists":              {"Shows AWS's own prefix lists.", "As DescribeManagedPrefixLists; they have no blocks."},
	"GetManagedPrefixListAssociations": {"Shows the groups and route tables that name a prefix list.", ""},
	"GetManagedPrefixListEntries":      {"Shows the entries of a prefix list, of any version that is kept.", "Old versions are also lost when the changes of all versions have more than five times 1,000 entries."},
	"ModifyManagedPrefixList":          {"Changes the name, the entries or the size of a prefix list.", "Changed entries are in force when the call is answered, which shows modify-complete and the new version."},
	"RestoreManagedPrefixListVersion":  {"Gives a prefix list the entries of an earlier version.", "As ModifyManagedPrefixList."},
}

func init() { maps.Copy(descriptions, listDescriptions) }
